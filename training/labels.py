"""The words on the screens: every concept has one Chinese and one English label.

A concept's number is its place in CONCEPTS; it is only used by the auxiliary
loss of train.py and never leaves the training run.
"""

APPS = """设置|Settings 微信|WeChat 支付宝|Alipay 淘宝|Taobao 京东|JD 美团|Meituan 抖音|TikTok 小红书|RedNote 微博|Weibo 相机|Camera
相册|Photos 电话|Phone 短信|Messages 联系人|Contacts 日历|Calendar 时钟|Clock 天气|Weather 地图|Maps 音乐|Music 视频|Videos
浏览器|Browser 邮件|Email 文件|Files 计算器|Calculator 备忘录|Notes 录音机|Recorder 应用商店|Store 游戏|Games 健康|Health 钱包|Wallet
翻译|Translate 指南针|Compass 手电筒|Flashlight 主题|Themes 云盘|Drive 阅读|Books 新闻|News 股票|Stocks 外卖|Delivery 打车|Taxi
高德地图|Amap 百度|Baidu 知乎|Zhihu 哔哩哔哩|Bilibili 网易云音乐|NetEase 拼多多|Temu 携程|Trip 滴滴出行|DiDi 钉钉|DingTalk 飞书|Feishu
快手|Kwai 优酷|Youku 爱奇艺|iQIYI 豆瓣|Douban 饿了么|Eleme 闲鱼|Xianyu 腾讯视频|Tencent 扫描|Scanner 家居|Smart home 播客|Podcasts"""

SETTINGS = """蓝牙|Bluetooth 无线网络|Wi-Fi 移动网络|Mobile network 飞行模式|Airplane mode 热点|Hotspot 显示|Display 亮度|Brightness 声音|Sound 振动|Vibration 通知|Notifications
电池|Battery 存储|Storage 安全|Security 隐私|Privacy 位置信息|Location 账号|Accounts 密码|Password 指纹|Fingerprint 人脸识别|Face unlock 锁屏|Lock screen
壁纸|Wallpaper 字体大小|Font size 深色模式|Dark mode 护眼模式|Eye comfort 语言|Language 输入法|Keyboard 日期和时间|Date and time 系统更新|System update 关于手机|About phone 开发者选项|Developer options
备份|Backup 重置|Reset 辅助功能|Accessibility 应用管理|App manager 权限管理|Permissions 流量使用|Data usage 勿扰模式|Do not disturb 屏幕使用时间|Screen time 省电模式|Power saving 自动旋转|Auto rotate
铃声|Ringtone 音量|Volume 投屏|Cast 打印|Printing 虚拟网络|VPN 定位服务|Location services 自动更新|Auto update 手势导航|Gestures 紧急联系人|Emergency 家长控制|Parental controls"""

BUTTONS = """确定|OK 取消|Cancel 保存|Save 删除|Delete 编辑|Edit 完成|Done 下一步|Next 上一步|Previous 提交|Submit 关闭|Close
允许|Allow 拒绝|Deny 同意|Agree 不同意|Disagree 登录|Log in 注册|Sign up 退出|Exit 跳过|Skip 重试|Retry 刷新|Refresh
发送|Send 分享|Share 收藏|Favorite 点赞|Like 评论|Comment 转发|Forward 关注|Follow 下载|Download 安装|Install 卸载|Uninstall
更新|Update 打开|Open 复制|Copy 粘贴|Paste 剪切|Cut 全选|Select all 撤销|Undo 搜索|Search 清空|Clear 添加|Add
加入购物车|Add to cart 立即购买|Buy now 去支付|Pay 提交订单|Place order 领取|Claim 签到|Check in 预约|Book 导航|Navigate 呼叫|Call 挂断|Hang up
接听|Answer 拍照|Take photo 录像|Record 播放|Play 暂停|Pause 停止|Stop 继续|Continue 开始|Start 返回首页|Back to home 重新加载|Reload
稍后再说|Later 不再提示|Never show 我知道了|Got it 立即更新|Update now 忘记密码|Forgot password 获取验证码|Get code 联系客服|Support 查看详情|Details 展开|Expand 收起|Collapse
筛选|Filter 排序|Sort 全部|All 选择|Select 上传|Upload 扫一扫|Scan 付款|Payment 转账|Transfer 充值|Top up 应用|Apply"""

TABS = """首页|Main 我的|Me 消息|Inbox 发现|Discover 分类|Categories 购物车|Cart 推荐|For you 热门|Trending 附近|Nearby 直播|Live
通讯录|People 动态|Feed 订单|Orders 历史记录|History 收藏夹|Bookmarks 优惠券|Coupons 会员|Membership 客服|Help 地址|Address 朋友圈|Moments
歌单|Playlists 排行榜|Charts 专辑|Albums 歌手|Artists 电影|Movies 电视剧|TV shows 综艺|Variety 动漫|Anime 体育|Sports 科技|Tech
美食|Food 酒店|Hotels 机票|Flights 火车票|Trains 景点|Sights 门票|Tickets 超市|Grocery 水果|Fruit 咖啡|Coffee 奶茶|Milk tea"""

ITEMS = """张伟|Alice 王芳|Bob 李娜|Carol 刘洋|David 陈静|Emma 杨帆|Frank 赵磊|Grace 黄丽|Henry 周涛|Irene 吴敏|Jack
妈妈|Mom 爸爸|Dad 老师|Teacher 同事|Colleague 房东|Landlord 家人群|Family group 工作群|Work group 同学群|Classmates 快递员|Courier 物业|Property
苹果|Apples 香蕉|Bananas 牛奶|Milk 面包|Bread 鸡蛋|Eggs 大米|Rice 洗发水|Shampoo 牙膏|Toothpaste 毛巾|Towel 纸巾|Tissues
耳机|Headphones 充电器|Charger 手机壳|Phone case 键盘|Keypad 鼠标|Mouse 显示器|Monitor 背包|Backpack 雨伞|Umbrella 运动鞋|Sneakers 外套|Jacket
拿铁|Latte 美式|Americano 红茶|Black tea 绿茶|Green tea 可乐|Cola 橙汁|Orange juice 汉堡|Burger 披萨|Pizza 炸鸡|Fried chicken 沙拉|Salad
米饭|Steamed rice 面条|Noodles 饺子|Dumplings 火锅|Hot pot 寿司|Sushi 蛋糕|Cake 冰淇淋|Ice cream 薯条|Fries 牛排|Steak 汤|Soup"""

FIELDS = """用户名|Username 手机号|Phone number 验证码|Code 邮箱|Email address 姓名|Full name 收货地址|Delivery address 备注|Remark 标题|Title 城市|City 公司|Company"""

ICONS = """返回箭头|back arrow 搜索图标|search icon 更多按钮|more button 加号|plus button 关闭按钮|close button 菜单图标|menu icon 爱心|heart icon 星标|star icon 铃铛|bell icon 删除图标|trash icon
播放按钮|play button 暂停按钮|pause button 对勾|check mark 麦克风|microphone 发送图标|send icon 主页图标|home icon 电话图标|phone icon 相机图标|camera icon 下载图标|download icon 表情|emoji icon"""

KEYS = """1|1 2|2 3|3 4|4 5|5 6|6 7|7 8|8 9|9 0|0"""


def _parse(text):
    pairs = []
    for line in text.splitlines():
        # English labels may hold spaces, so cut only in front of a Chinese (or digit) label.
        item = ""
        for word in line.split(" "):
            if "|" in word:
                if item:
                    pairs.append(item)
                item = word
            else:
                item += " " + word
        if item:
            pairs.append(item)
    return [tuple(p.split("|")) for p in pairs]


GROUPS = {name: _parse(text) for name, text in dict(
    app=APPS, setting=SETTINGS, button=BUTTONS, tab=TABS, item=ITEMS, field=FIELDS, icon=ICONS, key=KEYS).items()}

CONCEPTS = []      # (group, zh, en)
GROUP_IDS = {}     # group -> list of concept numbers
for _group, _pairs in GROUPS.items():
    GROUP_IDS[_group] = []
    for _zh, _en in _pairs:
        GROUP_IDS[_group].append(len(CONCEPTS))
        CONCEPTS.append((_group, _zh, _en))

ICON_INDEX = {c: i for i, c in enumerate(GROUP_IDS["icon"])}


def label(concept, lang):
    return CONCEPTS[concept][1 if lang == "zh" else 2]


# The text classes of the auxiliary loss: one for every (concept, language); 0 is "nothing to press here".
def text_class(concept, lang):
    return 1 + 2 * concept + (0 if lang == "zh" else 1)


CLASS_COUNT = 1 + 2 * len(CONCEPTS)

# Words for the parts of the screens that are only looked at.
FILLER_ZH = """今天天气不错，适合出门走走 您的包裹已到达驿站 会议改到下午三点 请尽快确认订单信息 新版本修复了若干问题 限时优惠，满100减20 已连接到家庭网络 上次备份：昨天
点击查看更多内容 好的，明天见 周末一起吃饭吗？ 文件已保存到本地 是否允许访问您的位置？ 删除后无法恢复，确定吗？ 发现新版本，是否立即更新？ 距离您500米 评分4.8 月销2000+ 已关闭 已开启 未设置 剩余80%""".split(" ")
FILLER_ZH = [s.strip() for s in " ".join(FILLER_ZH).split() if s.strip()]
FILLER_EN = [s.strip() for s in """Nice weather today, let's go out|Your parcel has arrived|Meeting moved to 3 pm|Please confirm your order soon|This version fixes several issues|20% off this weekend only|Connected to home network|Last backup: yesterday|See more content here|Great, talk to you tomorrow|Dinner on Saturday?|File saved to this device|Access your location while in use?|This cannot be undone. Are you sure?|A new version is available|500 m away|Rated 4.8|2000+ sold|Off now|On now|Not set|80% left""".split("|")]

ID = {zh: c for c, (_, zh, _) in enumerate(CONCEPTS)}      # Chinese label -> concept
